"""In the place of an installed Mooncake, so that nothing but a drop-in can be what a program takes for it."""

raise ImportError("this environment has no Mooncake: whoever asked for it has no drop-in installed")
