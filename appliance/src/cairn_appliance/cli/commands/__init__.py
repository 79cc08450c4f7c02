"""The commands, one module per kind of object; verbs list, show, create, set, delete."""
