"""The CPU kernel, where there is a compiler; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildKernel(build_ext):
    """Builds a plain shared library, which is loaded by ctypes: one for every version of Python and of torch."""

    def get_export_symbols(self, ext):
        """No PyInit function: the C file names what it exports."""
        return []


# Loops with a root vectorise without errno and traps; inf and nan stay as they are. Without contraction a row's mean is
# computed exactly as its elements are.
flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/openmp", "/std:c11"], []
elif sys.platform == "darwin":
    compile_args, link_args = [*flags], []  # its compiler has no OpenMP
else:
    compile_args = [*flags, "-fopenmp"]
    link_args = ["-fopenmp", "-lm"]


def library(name, source, **link):
    """A shared library; without a compiler the package installs all the same and uses foreach."""
    return Extension(name, [source], extra_compile_args=compile_args, py_limited_api=True, optional=True, **link)


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        library("adabelief.kernels._cpu", "src/adabelief/kernels/cpu.c", extra_link_args=link_args),
        library("adabelief.torch._proof", "src/adabelief/torch/proof.c"),
    ],
)
