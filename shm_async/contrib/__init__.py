"""What connects regions with other libraries: metrics and a dashboard. Each part is an extra."""
