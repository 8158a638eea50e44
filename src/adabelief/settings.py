"""Published settings."""


def recommended(task): ...
def eps_from_adam(eps):
    return eps * eps
