"""The node agent: stands in for kubelet and kube-proxy. Pods run as local processes on addresses of their own.

What a real node has and this one lacks: containers (an image names a folder of programs), mount namespaces (mount paths
are replaced in command, arguments and environment), limits, and the enforcement of securityContext.
"""
