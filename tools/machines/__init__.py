"""Disks and virtual machines to test in, boxes for Vagrant, kits for machines without a network."""
