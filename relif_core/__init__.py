"""ReLiF: fixed-tolerance auditing and controlled Lipschitz regularisation for multi-task learning."""

__version__ = "0.1.0"
