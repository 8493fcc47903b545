"""`make ops-demo`: the dashboard as Grafana would draw it, of a stack that runs for minutes and is broken meanwhile.

`scenario` runs it and keeps what Prometheus answers to every panel, `page.jsx` draws it with Grafana's own components,
`shoot.mjs` takes the pictures, light and dark. It needs what tests/ops/test_live.py needs, and node, npm and chromium.
"""
