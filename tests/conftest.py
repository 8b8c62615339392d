"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("swarm", deadline=None)  # no timed assertions: a busy machine is not a fault
settings.load_profile("swarm")
