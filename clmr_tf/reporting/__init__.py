"""From a folder of result files to a page of tables and pictures beside the published numbers."""
