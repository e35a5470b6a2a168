"""What a step of training adds up: one objective per stream, each with its batches and its loss."""
