"""The HTTPS client of the appliances' agent API, and the only place that retries.

`tls` checks whom we talk to, `replica` makes one request, `joining` enrols once, `link`
registers and follows the netmap for as long as the agent runs.
"""
