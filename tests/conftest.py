"""Settings of all tests."""

from hypothesis import settings

# No timed assertions: a busy machine is not a fault. A commit passes `make test` everywhere or nowhere; what looks for
# new counterexamples is `make test-all`, which asks for the other profile.
settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=200, print_blob=True)
settings.load_profile("quick")
