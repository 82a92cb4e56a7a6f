"""The study of learning-rate finders: cells, reference curves, our own finder, everybody else's, and the table."""
