"""Numbers that fit no field of a record, or not every one, and where a record holds numbers."""

from dataclasses import fields, is_dataclass, replace

from hypothesis import strategies as st

ODD_NUMBERS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_subnormal=False)  # runtimes that flush subnormal numbers to zero do so for the whole process
    | st.sampled_from([0, 1, 2, 3, 1.0, 2.0, 0.5, -1, 2**53 + 1, 10**400])
)


def numbers_in(value, path=()):
    """Yield the path to every number that a record holds, through its fields and tuples."""
    if isinstance(value, int | float):
        yield path
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers_in(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from numbers_in(item, (*path, index))


def put(value, path, new):
    """Return a record with another value at a path; all records on the way are made, and so validated, anew."""
    if not path:
        return new
    step, *rest = path
    if isinstance(step, str):
        return replace(value, **{step: put(getattr(value, step), rest, new)})
    return (*value[:step], put(value[step], rest, new), *value[step + 1 :])
