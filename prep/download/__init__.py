"""What lies on the disk as downloaded: folders, tables, reports in trees and zips, XML."""
