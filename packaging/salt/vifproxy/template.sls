{#-
In the template of the netvm and of the AppVMs: the packages. vifproxy changes nothing in a VM whose service vifproxy is not switched on,
and vifproxy-client nothing in one whose gateway has no proxy.
-#}
{%- set suffix = 'rpm' if grains['os_family'] == 'RedHat' else 'deb' -%}
vifproxy-packages:
  pkg.installed:
    - sources:
      - vifproxy: salt://vifproxy/packages/vifproxy.{{ suffix }}
      - vifproxy-client: salt://vifproxy/packages/vifproxy-client.{{ suffix }}
