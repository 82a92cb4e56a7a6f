"""Several runs of one problem over the same batches: a learning-rate search is one program, not K programs.

The runs share rows, batches and seed, and differ in their optimizers' numbers. Run k is the run that its plan gives alone:
what is written here is only how K of them go on side by side.
"""

from fallline.engines.population.population import Population, Runs

__all__ = ["Population", "Runs"]
