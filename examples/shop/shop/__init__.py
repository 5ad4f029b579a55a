"""A shop's lake, of components: see `docs/components.md`."""
