"""What the frontend's function costs to import, and what it must not need."""

from __future__ import annotations

import json
import subprocess
import sys

_PROBE = """
import json, sys, time
import temporalio.api.common.v1  # the package around it is the SDK's, which a bundle does not hold
before = set(sys.modules)
began = time.process_time()
import whistlestop.frontend.lambda_function
spent = time.process_time() - began
print(json.dumps([spent, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
_CEILING_S = 0.35
_UNWANTED = {"grpc", "boto3", "botocore", "pydantic", "uvicorn", "aws_lambda_powertools", "psycopg", "prometheus_client"}


def test_import_is_cheap_and_brings_nothing_heavy() -> None:
    """Best of three, for the machine may be busy."""
    results = []
    for _ in range(3):
        output = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=True, text=True).stdout
        spent_s, modules = json.loads(output)
        assert _UNWANTED & set(modules) == set()
        results.append(spent_s)
    assert min(results) < _CEILING_S
