{#- In the template of the netvm: the package. It changes nothing in a VM whose service vifproxy is not switched on. -#}
vifproxy-package:
  pkg.installed:
    - sources:
      - vifproxy: salt://vifproxy/packages/vifproxy.{{ 'rpm' if grains['os_family'] == 'RedHat' else 'deb' }}
