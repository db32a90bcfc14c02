"""Pages that stand alone: one HTML file with pictures, tables and scripts inside."""
