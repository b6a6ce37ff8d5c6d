"""Chapter 9, and walls of each container of an image from chapter 5 on: root inside a container still is root.

Each module here is a wall, explained by the attack that it stops.
"""
