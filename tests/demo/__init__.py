"""The demo: two clouds and an office share one virtual Ethernet, proof by proof."""
