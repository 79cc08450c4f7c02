"""This machine: what it is, its underlay addresses, and the TAPs that the agent makes."""
