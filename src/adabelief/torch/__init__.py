"""AdaBelief for PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("AdaBelief for PyTorch needs torch: pip install 'adabelief[torch]'") from error

from adabelief.torch.groups import parameter_groups
from adabelief.torch.migrate import from_adam, from_optax
from adabelief.torch.offload import offload
from adabelief.torch.optimizer import AdaBelief, AdaBeliefW
from adabelief.torch.probe import Probe
from adabelief.torch.ranger import RangerAdaBelief
from adabelief.torch.release import release

__all__ = [
    "AdaBelief",
    "AdaBeliefW",
    "Probe",
    "RangerAdaBelief",
    "from_adam",
    "from_optax",
    "offload",
    "parameter_groups",
    "release",
]
