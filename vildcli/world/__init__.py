"""The small world: sprites, scenes, annotations, captions. Frozen: see docs/world.md."""
