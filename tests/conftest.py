"""Settings that every test shares."""

from hypothesis import settings

# Timing decides no test, and the same commit always tries the same examples.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")
