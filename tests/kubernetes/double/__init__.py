"""A Kubernetes cluster of one process: API server, controllers, scheduler and kubelets, on a clock that is passed in.

It speaks real HTTP to real clients and is deterministic for a seed. Its types are those of the published OpenAPI document, its
words those of the real components. What it leaves out: other versions of an API than the newest, admission webhooks, RBAC objects
(a token's rights are given to `Tokens`), priorities and preemption, pod networks (all pods share the host's), and mount namespaces
(see `kubelet`).
"""
