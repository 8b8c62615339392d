"""The composition root: the `swarm` command, placement, recipes and what a person sees. Imports everything."""
