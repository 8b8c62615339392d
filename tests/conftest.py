"""Settings of all tests."""

from hypothesis import settings

# No timed assertions: a busy machine is not a fault.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("quick")  # `make test-all` asks for the other
