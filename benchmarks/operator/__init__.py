"""The operator on a real control plane: what it costs, beside Kubeflow Trainer's manager and a bare client."""
