"""What only the appliance's image has: its first boot, its two system slots, its screen."""
