"""The probe: is this optimizer adaptive, slow, unstable, or just SGD?"""

from adabelief.torch.probe.probe import Probe

__all__ = ["Probe"]
