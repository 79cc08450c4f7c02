"""The Cairn appliance: enrolment, mapping service and operations API."""
