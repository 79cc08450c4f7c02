"""The appliance's image, booted."""
