"""Grafana dashboards as code; `make generate` writes them to headrace/files/dashboards. Nothing of this is shipped."""
