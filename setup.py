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
    """A wheel for every Python, and for the platform of its libraries."""

    def get_tag(self):
        """The tag of what was built: where no library could be, the wheel says so."""
        built = any(map(os.path.exists, self.get_finalized_command("build_ext").get_outputs()))
        return "py3", "none", super().get_tag()[2] if built else "any"


# Loops with a root vectorise without errno and traps; inf and nan stay as they are. Without contraction a row's mean is
# computed exactly as its elements are.
flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/std:c11"], []
elif sys.platform == "darwin":
    compile_args, link_args = flags, ["-Wl,-x"]
else:
    compile_args, link_args = flags, ["-Wl,-s", "-lm"]


def library(name, source, headers=()):
    """A shared library; without a compiler the package installs all the same and uses foreach."""
    depends = [os.path.join(os.path.dirname(source), header) for header in headers]
    return Extension(
        name, [source], extra_compile_args=compile_args, extra_link_args=link_args, depends=depends, optional=True
    )


setup(
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
    ext_modules=[
        library(
            "adabelief.kernels._cpu", "src/adabelief/kernels/cpu.c", ["codes.h", "threads.h", "tiles.h", "types.h"]
        ),
        library("adabelief.torch._proof", "src/adabelief/torch/proof.c"),
    ],
)
