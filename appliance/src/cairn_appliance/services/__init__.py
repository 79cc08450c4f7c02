"""What the appliance does: each module is one task, over the store."""
