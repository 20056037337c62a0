"""Generate `*_pb2.py` and `*_pb2.pyi` beside our `.proto` files.

Temporal's own `.proto` files are not needed: their descriptors are read from the installed `temporalio` package and
passed to the compiler as a descriptor set.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc
from temporalio.api.workflowservice.v1 import request_response_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTO_ROOTS = ("services/common", "services/history")


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of Temporal's API in the installed package, dependencies first."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    pool = descriptor_pool.Default()

    def visit(name: str) -> None:
        if name in found:
            return
        file = pool.FindFileByName(name)
        for dependency in file.dependencies:
            visit(dependency.name)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        found[name] = proto

    visit(request_response_pb2.DESCRIPTOR.name)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


def main() -> int:
    with tempfile.NamedTemporaryFile(suffix=".binpb") as file:
        file.write(descriptor_set().SerializeToString())
        file.flush()
        for root in PROTO_ROOTS:
            sources = sorted(str(path.relative_to(ROOT / root)) for path in (ROOT / root).rglob("*.proto"))
            code = protoc.main(
                [
                    "protoc",
                    f"--proto_path={ROOT / root}",
                    f"--descriptor_set_in={file.name}",
                    f"--python_out={ROOT / root}",
                    f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}",
                    f"--mypy_out=quiet:{ROOT / root}",
                    *sources,
                ]
            )
            if code:
                return int(code)
            for path in (ROOT / root).rglob("*_pb2.py*"):
                text = path.read_text().replace("from temporal.api.", "from temporalio.api.")
                text = text.replace("import temporal.api.", "import temporalio.api.")
                text = text.replace(" temporal.api.", " temporalio.api.")
                path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
