"""Makes the stubs from `proto/` of this repository while the wheel is built; they are kept nowhere else."""

import pathlib
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

PROTO = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        files = sorted(str(file) for file in (PROTO / "kernex" / "v1").glob("*.proto"))
        if not files:
            raise SystemExit(f"there are no .proto files in {PROTO}; build the wheel in a checkout of Kernex")
        places = [f"--{kind}_out={self.build_lib}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *places, *files], check=True)


setup(cmdclass={"build_py": BuildWithStubs})
