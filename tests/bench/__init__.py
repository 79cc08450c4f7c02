"""`make bench`: Cairn beside other overlays, interleaved round by round on one machine."""
