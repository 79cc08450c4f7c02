"""The program of the installer's ISO: writes the appliance's disk and reads it back.

It runs alone in memory, from images/appliance/installer; nothing of it runs in an installed system.

disks      which disks there are, what is on them, which one is meant
writing    the image onto a disk, and back
screen     the machine's screen and its serial line, both at once
menu       somebody is asked
main       one installation, by a seed or by the menu
"""
