"""Commands that make rows before a training run: the converter of grit-mini's sources, and the mining of negatives."""
