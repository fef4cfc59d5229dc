"""The live world: what is seen through metrics, and what is published. The only place to know Kubernetes objects."""
