"""Bundles of the functions: `python -m infra.bundle --help`."""

from __future__ import annotations

import sys

from infra.bundle.build import main

sys.exit(main())
