"""A Django project as startproject lays it out: manage.py beside the package of the site."""
