"""Export: trained policies as files that other programs run without this package."""

from ddpg_jax.export.formats import FORMATS, export_policy

__all__ = ["FORMATS", "export_policy"]
