"""The compiled libraries, where there is a compiler; everything else is in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SUFFIX = ".dll" if sys.platform == "win32" else ".so"  # as adabelief.kernels.library has it


class BuildLibraries(build_ext):
    """Builds plain shared libraries, which are loaded by ctypes: for every version of Python and of torch."""

    def get_export_symbols(self, ext):
        """No PyInit function: the C files name what they export."""
        return []

    def get_ext_filename(self, fullname):
        """No version of Python in the name."""
        return os.path.join(*fullname.split(".")) + SUFFIX


class PlatformWheel(bdist_wheel):
    """A wheel for a platform and every Python."""

    def get_tag(self):
        """The tag, of which only the platform depends on where it is built."""
        return "py3", "none", super().get_tag()[2]


# Loops with a root vectorise without errno and traps; inf and nan stay as they are. Without contraction a row's mean is
# computed exactly as its elements are.
flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
if sys.platform == "win32":
    compile_args, strip, openmp = ["/O2", "/openmp", "/std:c11"], [], []
elif sys.platform == "darwin":
    compile_args, strip, openmp = flags, ["-Wl,-x"], []  # its compiler has no OpenMP
else:
    compile_args, strip, openmp = [*flags, "-fopenmp"], ["-Wl,-s"], ["-fopenmp", "-lm"]


def library(name, source, link=(), headers=()):
    """A shared library; without a compiler the package installs all the same and uses foreach."""
    link_args, depends = [*strip, *link], [os.path.join(os.path.dirname(source), header) for header in headers]
    return Extension(
        name, [source], extra_compile_args=compile_args, extra_link_args=link_args, depends=depends, optional=True
    )


setup(
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
    ext_modules=[
        library("adabelief.kernels._cpu", "src/adabelief/kernels/cpu.c", openmp, ["codes.h", "tiles.h", "types.h"]),
        library("adabelief.torch._proof", "src/adabelief/torch/proof.c"),
    ],
)
