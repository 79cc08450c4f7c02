"""The HTTP edge: types in, types out; no rule lives here."""
