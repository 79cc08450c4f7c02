"""The routes of the operations API, one module per kind of object."""
