"""`report.html`: one page with tables, curves and images, which needs no network."""
