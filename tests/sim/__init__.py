"""Thousands of simulated agents, in processes of their own, against a real appliance."""
