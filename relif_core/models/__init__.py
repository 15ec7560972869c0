"""Models: a shared encoder, one head per task, and the map from outputs to audit scores."""
